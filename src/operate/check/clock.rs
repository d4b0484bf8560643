//! Clocks: events carry the server's time, latencies compare it with this machine's, and fences outlive neither.

use std::time::{Duration, SystemTime};

use super::report::Report;

/// More than this is worth a word: latencies and the age of events are off by as much.
const NOTABLE: Duration = Duration::from_secs(1);

/// Judges a server's clock by what it said between two moments of this machine's.
pub(super) fn judge(server: &str, asked: SystemTime, theirs: SystemTime, answered: SystemTime, report: &mut Report) {
    let Some((apart, ahead)) = apart(asked, theirs, answered) else {
        return report.ok("clock", format!("{server} agrees with this machine"));
    };
    let direction = if ahead { "ahead of" } else { "behind" };
    let text = format!("{server} is {:.1} s {direction} this machine", apart.as_secs_f64());
    report.warn("clock", text, "on the machine that is wrong: `chronyc makestep`, or `timedatectl set-ntp true`");
}

/// Returns how far the clock surely is from this machine's, and whether ahead, if that is notable. The answer was made
/// somewhere between the two moments.
fn apart(asked: SystemTime, theirs: SystemTime, answered: SystemTime) -> Option<(Duration, bool)> {
    let ahead = theirs.duration_since(answered).ok().map(|apart| (apart, true));
    let behind = asked.duration_since(theirs).ok().map(|apart| (apart, false));
    ahead.or(behind).filter(|(apart, _)| *apart > NOTABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_a_slow_answer_leaves_certain() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(apart(at(10_000), at(11_500), at(13_000)), None);
        assert_eq!(apart(at(10_000), at(11_000), at(10_010)), None);
        assert_eq!(apart(at(10_000), at(12_010), at(10_010)), Some((Duration::from_secs(2), true)));
        assert_eq!(apart(at(10_000), at(7_000), at(10_010)), Some((Duration::from_secs(3), false)));
    }

    #[test]
    fn a_clock_that_is_off_is_named_with_its_direction() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let mut report = Report::default();
        judge("Redis", at(10), at(7), at(10), &mut report);
        assert_eq!(report.findings()[0].text, "Redis is 3.0 s behind this machine");
    }
}
