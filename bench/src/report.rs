//! Medians, tables, and the file that holds them.

use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::Machine;

const HEAD: &str = "# What capture does beside its peers\n\nWritten by `make bench-capture`; figures are medians, in parentheses \
                    the least and the most. Runs take turns, on servers of their own, all on one machine.\n";

/// The middle of some figures, with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Median {
    pub(crate) middle: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Median {
    /// Of an even number of figures, the mean of the two in the middle; `None` of none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { middle, least, most })
    }

    /// Shows all three: `2.0 (1.0–3.0)`.
    pub(crate) fn spread(self, digits: usize) -> String {
        let Self { middle, least, most } = self;
        format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

/// Lays out a table in Markdown.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let names: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let rule: Vec<String> = (0..head.len()).map(|at| if at == 0 { "---" } else { "---:" }.to_owned()).collect();
    let body: String = rows.iter().map(|row| line(row)).collect();
    line(&names) + &line(&rule) + &body
}

/// Says what a section was measured on.
pub(crate) fn provenance(machine: &Machine) -> String {
    let Machine { day, commit, hardware, versions, command, .. } = machine;
    format!("Measured {day} at commit {commit} with `{command}` on {hardware}. {versions}.\n\n")
}

/// Digits in groups of three.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count, its digits in groups of three.
#[expect(clippy::cast_precision_loss, reason = "a number for people")]
pub(crate) fn grouped_count(number: u64) -> String {
    grouped(number as f64)
}

/// Puts the sections into the file, in place of those with the same heading; the others stay.
pub(crate) fn write(file: &Path, sections: &[String]) -> Result<()> {
    let old = std::fs::read_to_string(file).unwrap_or_default();
    std::fs::write(file, merged(&old, sections)).with_context(|| format!("cannot write {}", file.display()))
}

fn merged(old: &str, new: &[String]) -> String {
    let heading = |section: &str| section.lines().next().unwrap_or_default().to_owned();
    let mut sections: Vec<String> =
        old.split("\n## ").skip(1).map(|section| format!("## {}\n", section.trim_end())).collect();
    for section in new {
        let section = format!("{}\n", section.trim_end());
        match sections.iter_mut().find(|there| heading(there) == heading(&section)) {
            Some(there) => *there = section,
            None => sections.push(section),
        }
    }
    let head = old.split("\n## ").next().filter(|head| !head.is_empty()).unwrap_or(HEAD);
    format!("{}\n\n{}", head.trim_end(), sections.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_figure_or_the_mean_of_the_two_middle_ones() {
        let odd = Median::of([3.0, 1.0, 2.0]);
        assert_eq!(odd, Some(Median { middle: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Median::of([4.0, 1.0, 2.0, 3.0]).map(|median| median.middle), Some(2.5));
        assert_eq!(Median::of([]), None);
    }

    #[test]
    fn a_section_takes_the_place_of_the_one_with_its_heading_and_the_others_stay() {
        let first = merged("", &["## A\n\nold".into(), "## B\n\nstays".into()]);
        let second = merged(&first, &["## A\n\nnew".into()]);
        assert!(second.contains("## A\n\nnew\n\n## B\n\nstays\n") && !second.contains("old"), "{second}");
        assert_eq!(merged(&second, &["## A\n\nnew".into()]), second);
    }

    #[test]
    fn large_numbers_are_read_in_groups_of_three() {
        assert_eq!([grouped(7.0), grouped(265_000.4), grouped(1e6)], ["7", "265,000", "1,000,000"]);
    }
}
