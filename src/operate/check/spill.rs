//! Where capture keeps transactions in progress. Without that it works all the same, but the server has to keep them.

use super::report::Report;
use crate::capture::{SpillError, spill_room};
use crate::roles::Config;

const SUBJECT: &str = "capture.spill_folder";
const MIB: u64 = 1 << 20;

pub(super) fn check(config: &Config, report: &mut Report) {
    let (source, settings) = (&config.source, &config.capture);
    if !settings.streaming {
        return;
    }
    let folder = settings.spill_folder_of(&source.name).display().to_string();
    judge(&folder, settings.spill_bytes, spill_room(settings, &source.name), report);
}

fn judge(folder: &str, wanted: u64, free: Result<u64, SpillError>, report: &mut Report) {
    match free {
        Ok(free) if free < wanted => {
            let (free, wanted) = (free / MIB, wanted / MIB);
            let text = format!("{folder} has {free} MiB left on its disk, and spill_mib = {wanted}");
            let less =
                if free > 1 { format!("set [capture] spill_mib = {} or less, or ", free / 2) } else { String::new() };
            let remedy = format!("{less}name a folder on a larger disk as [capture] spill_folder");
            report.warn(SUBJECT, text, remedy);
        }
        Ok(free) => report.ok(SUBJECT, format!("{folder} takes large transactions, {} MiB are free", free / MIB)),
        Err(error) => {
            let text =
                format!("{error}: capture would go on without streaming, and the server keep large transactions");
            let remedy = format!(
                "as the user that runs capture: `install -d -m 700 {folder}`; or name another folder as [capture] spill_folder"
            );
            report.warn(SUBJECT, text, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operate::check::Grade;

    #[test]
    fn a_folder_without_room_or_of_others_is_a_warning_with_what_to_set() {
        let found = |free| {
            let mut report = Report::default();
            judge("/spill", 1024 * MIB, free, &mut report);
            let found = report.findings()[0].clone();
            (found.grade, found.text, found.remedy.unwrap_or_default())
        };
        assert_eq!(found(Ok(2048 * MIB)).0, Grade::Ok);
        let (grade, text, remedy) = found(Ok(100 * MIB));
        assert_eq!(grade, Grade::Warn);
        assert!(text.contains("100 MiB") && remedy.contains("spill_mib = 50 or less"), "{text}: {remedy}");
        let (grade, text, remedy) = found(Err(SpillError::Shared { folder: "/spill".into() }));
        assert_eq!(grade, Grade::Warn);
        assert!(text.contains("without streaming") && remedy.contains("install -d -m 700 /spill"), "{text}: {remedy}");
    }
}
