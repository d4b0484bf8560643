//! What a check found: one line each, and the remedy under it.

use std::fmt;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, with a weaker promise.
    Warn,
    /// Would not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How grave it is.
    pub grade: Grade,
    /// What was looked at: `slot`, `topic catalog.stock`.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// What mends it: a command where there is one.
    pub remedy: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds what is as it should be.
    pub fn ok(&mut self, subject: impl Into<String>, text: impl Into<String>) {
        self.add(Grade::Ok, subject.into(), text.into(), None);
    }

    /// Adds what works with a weaker promise.
    pub fn warn(&mut self, subject: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Grade::Warn, subject.into(), text.into(), Some(remedy.into()));
    }

    /// Adds what would not work.
    pub fn fail(&mut self, subject: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Grade::Fail, subject.into(), text.into(), Some(remedy.into()));
    }

    /// Returns what was looked at, in order.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether nothing would keep the roles from working.
    #[must_use]
    pub fn can_start(&self) -> bool {
        self.findings.iter().all(|finding| finding.grade < Grade::Fail)
    }

    fn add(&mut self, grade: Grade, subject: String, text: String, remedy: Option<String>) {
        self.findings.push(Finding { grade, subject, text, remedy });
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The worst last, where a terminal's reader looks first; within a grade in the order of the flow.
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| finding.grade);
        for finding in findings {
            writeln!(f, "{:<5} {}: {}", finding.grade, finding.subject, finding.text)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "      → {remedy}")?;
            }
        }
        let count = |grade| self.findings.iter().filter(|finding| finding.grade == grade).count();
        let (ok, warn, fail) = (count(Grade::Ok), count(Grade::Warn), count(Grade::Fail));
        write!(f, "{ok} ok, {warn} warnings, {fail} errors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_each_finding_with_its_remedy_and_only_a_failure_forbids_the_start() {
        let mut report = Report::default();
        report.warn("publication", "has a row filter", "remove it");
        report.ok("wal_level", "logical");
        assert!(report.can_start());
        report.fail("slot", "is lost", "drop it");
        assert!(!report.can_start());
        let expected = "\
ok    wal_level: logical
warn  publication: has a row filter
      → remove it
FAIL  slot: is lost
      → drop it
1 ok, 1 warnings, 1 errors";
        assert_eq!(report.to_string(), expected);
    }
}
