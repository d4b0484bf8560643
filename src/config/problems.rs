//! Everything that is wrong with a configuration, at once.

use std::fmt;

use super::place::Place;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The key, with its sections: `capture.mark_ms`, `source.map[2].entity`. Empty where no key is meant.
    pub path: String,
    /// What was found, what is expected, and the nearest right name where one is near.
    pub message: String,
}

/// All that is wrong with a configuration; its text has one line for each problem, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    file: String,
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// Gathers problems found in one configuration file and its environment.
    #[must_use]
    pub fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        // Stable, so that problems of one line stay in the order in which they were found.
        problems.sort_by_key(|Problem { place, .. }| {
            let variable = *place.file != *file;
            (variable, place.line == 0, place.line)
        });
        Self { file: file.to_owned(), problems }
    }

    /// Returns the problems in the order in which they are shown.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "error" } else { "errors" };
        write!(f, "{} is refused, {count} {noun}:", self.file)?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Returns the candidate that `name` was most likely meant to be, if one is near enough.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| {
            let (name, other) = (name.to_lowercase(), candidate.to_lowercase());
            (strsim::damerau_levenshtein(&name, &other), candidate)
        })
        .filter(|(distance, candidate)| {
            // Half of a short name may not be wrong: `a` is not near `id`.
            *distance <= allowed && *distance * 2 <= candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Says what to write instead of an unknown name: the nearest right one, else all of them.
#[must_use]
pub fn instead<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(candidate) = nearest(name, candidates.clone()) {
        return format!("did you mean `{candidate}`?");
    }
    let all: Vec<_> = candidates.into_iter().map(|name| format!("`{name}`")).collect();
    match all.as_slice() {
        [] => "none is expected here".to_owned(),
        [one] => format!("expected {one}"),
        many => format!("expected one of {}", many.join(", ")),
    }
}
