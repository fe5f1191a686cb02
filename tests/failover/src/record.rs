//! The table of record: a line for each round, from which `record.sh` makes RESULTS.md.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::plan::Kind;
use crate::round::Report;
use crate::system::{Mode, Settings};

/// Adds the line of a round. Several processes may add to one file.
///
/// # Errors
/// The file cannot be written.
pub fn add(file: &Path, seed: u64, settings: &Settings, report: &Report) -> Result<()> {
    let opened = OpenOptions::new().create(true).append(true).open(file);
    let line = line(seed, settings.mode, (settings.services, settings.shards), report);
    // In one piece, so that lines of several processes do not mix.
    opened.and_then(|mut opened| opened.write_all(line.as_bytes())).with_context(|| format!("{}", file.display()))
}

/// The two lines above those that are added.
pub fn headings(services: usize, shards: usize) -> String {
    let kinds = Kind::all(services, shards).into_iter().map(Kind::words);
    let before = ["mode", "seed"].map(str::to_owned);
    let after = ["operations", "writes", "takeovers", "gap", "histories", "missing", "span", ""].map(str::to_owned);
    let cells: Vec<String> = before.into_iter().chain(kinds).chain(after).collect();
    format!("| {} |\n|{}", cells.join(" | "), "---|".repeat(cells.len()))
}

/// Cells between bars: mode, seed, how often each kind of fault that there is with so many services and shards, operations, acknowledged writes, takeovers, the
/// longest time without an acknowledged write in ms (in any place of a cluster), histories, writes missing, span of those in ms, verdict.
fn line(seed: u64, mode: Mode, (services, shards): (usize, usize), report: &Report) -> String {
    let mode = if mode == Mode::Sync { "sync" } else { "async" };
    let mut line = format!("| {mode} | {seed} |");
    for kind in Kind::all(services, shards) {
        // It cannot fail on a string.
        let _ = write!(line, " {} |", report.counts.get(&kind).copied().unwrap_or(0));
    }
    let answers = report.answers();
    let _ = writeln!(
        line,
        " {} | {} | {} | {} | {} | {} | {} | {} |",
        answers.len(),
        answers.iter().filter(|answer| answer.is_write).count(),
        report.takeovers(),
        report.longest_gap().0.as_millis(),
        report.laps,
        report.loss.writes,
        report.loss.span.as_millis(),
        if report.violation.is_none() { "passed" } else { "FAILED" },
    );
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_cell_for_each_heading() {
        let mut report = Report::default();
        report.counts.insert(Kind::Kill, 3);
        let cells = |line: &str| line.trim().split('|').count();
        for size in [(1, 1), (3, 1), (1, 3), (3, 3)] {
            let headings = headings(size.0, size.1);
            let (names, rule) = headings.split_once('\n').expect("two lines");
            let line = line(7, Mode::Sync, size, &report);
            assert_eq!([cells(names), cells(rule)], [cells(&line); 2], "{names}\n{line}");
            assert!(line.starts_with("| sync | 7 | 3 | 0 |") && line.ends_with("| passed |\n"), "{line}");
        }
    }
}
