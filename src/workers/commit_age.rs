//! How long ago an event's change was committed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns how long before `now` an event's `time` was, zero if the clocks disagree; `None` for a text in another form than
/// `YYYY-MM-DDThh:mm:ss.ffffffZ`, which every event has.
#[must_use]
pub fn commit_age(time: &str, now: SystemTime) -> Option<Duration> {
    let committed = microseconds_since_1970(time)?;
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    Some(now.saturating_sub(Duration::from_micros(u64::try_from(committed).ok()?)))
}

fn microseconds_since_1970(time: &str) -> Option<i64> {
    let form = b"0000-00-00T00:00:00.000000Z";
    let fits = time.len() == form.len()
        && time.bytes().zip(form).all(|(byte, form)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form });
    if !fits {
        return None;
    }
    let number = |from: usize, to: usize| time[from..to].parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    Some((days_since_1970(year, month, day) * 86_400 + seconds) * 1_000_000 + number(20, 26)?)
}

/// Counts days in years that begin in March, so that the leap day is the last one.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_time_counts_from_1970() {
        for (time, seconds) in [
            ("1970-01-01T00:00:00.000000Z", 0),
            ("2000-02-29T12:00:00.000000Z", 951_825_600),
            ("2026-11-21T10:00:00.000000Z", 1_795_255_200),
            ("2100-03-01T00:00:00.000000Z", 4_107_542_400),
        ] {
            assert_eq!(microseconds_since_1970(time), Some(seconds * 1_000_000), "{time}");
        }
        let now = UNIX_EPOCH + Duration::from_secs(2);
        assert_eq!(commit_age("1970-01-01T00:00:01.250000Z", now), Some(Duration::from_millis(750)));
        assert_eq!(commit_age("1970-01-01T00:00:03.000000Z", now), Some(Duration::ZERO));
    }

    #[test]
    fn another_form_is_no_time() {
        for text in
            ["", "infinity", "2026-11-21 10:00:00.000000Z", "2026-11-21T10:00:00Z", "2026-11-21T10:00:00.00000éZ"]
        {
            assert_eq!(commit_age(text, SystemTime::now()), None, "{text}");
        }
    }
}
