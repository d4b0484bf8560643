//! What the checker found.

use std::fmt;

/// Differences of one kind that are told in full; the rest are counted.
const TOLD: usize = 20;

/// What was compared, and what differs.
#[derive(Debug, Clone, Default)]
pub struct Report {
    sections: Vec<Section>,
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Section {
    /// What was compared with what.
    pub name: String,
    /// Things compared.
    pub compared: u64,
    /// Things that differ.
    pub differing: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
}

impl Report {
    /// Tells whether nothing differs and something was compared.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.sections.is_empty() && self.differing() == 0
    }

    /// Returns the number of differences.
    #[must_use]
    pub fn differing(&self) -> u64 {
        self.sections.iter().map(|section| section.differing).sum()
    }

    /// Returns the comparisons in the order in which they were made.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub(super) fn add(&mut self, section: Section) {
        self.sections.push(section);
    }
}

impl Section {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), compared: 0, differing: 0, told: Vec::new() }
    }

    /// Counts one comparison.
    pub(super) fn compared(&mut self) {
        self.compared += 1;
    }

    /// Notes a difference.
    pub(super) fn differs(&mut self, words: impl FnOnce() -> String) {
        self.differing += 1;
        if self.told.len() < TOLD {
            self.told.push(words());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            let verdict = if section.differing == 0 { "ok" } else { "DIFFERS" };
            writeln!(
                f,
                "{verdict:<8} {:<58} {:>9} compared, {} differ",
                section.name, section.compared, section.differing
            )?;
            for words in &section.told {
                writeln!(f, "           {words}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_without_comparisons_is_not_clean() {
        assert!(!Report::default().is_clean());
    }

    #[test]
    fn one_difference_is_told_and_counted() {
        let (mut report, mut section) = (Report::default(), Section::new("a with b"));
        section.compared();
        section.differs(|| "y: 1 is not 2".into());
        report.add(section);
        assert!(!report.is_clean());
        assert!(report.to_string().contains("y: 1 is not 2"));
    }

    #[test]
    fn what_is_not_told_is_counted() {
        let mut section = Section::new("many");
        for n in 0..100 {
            section.differs(|| n.to_string());
        }
        assert_eq!((section.differing, section.told.len()), (100, TOLD));
    }
}
