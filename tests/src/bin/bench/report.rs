//! What the bench prints: aligned tables, or JSON.

use std::io::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::measure::{Scenario, Series, Unit};

/// Prints one line.
pub(crate) fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Says on standard error what is going on.
pub(crate) fn progress(line: &str) {
    // Nobody needs to be there to read it.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Prints an error.
pub(crate) fn complain(line: &str) {
    progress(&format!("error: {line}"));
}

/// One row of a scenario's table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) target: String,
    pub(crate) series: Series,
}

/// One scenario's table. The first row is the direct connection, which the others are compared with.
pub(crate) fn table(scenario: Scenario, rows: &[Row]) -> Result<()> {
    let width = rows.iter().map(|row| row.target.len()).max().unwrap_or(0).max(6);
    let (unit, gap, cpu) = match scenario.unit() {
        Unit::MicrosPerQuery => ("µs", "added µs", "CPU µs"),
        Unit::PerSecond => ("tps", "added µs", "CPU µs"),
        Unit::Millis => ("ms", "added ms", "CPU ms"),
    };
    say("")?;
    say(scenario.title())?;
    say(&format!("  {:width$} {unit:>9} {:>19} {gap:>9} {:>7} {cpu:>9}", "", "min - max", "ratio"))?;
    let direct = rows.first().map_or(f64::NAN, |row| row.series.median());
    for Row { target, series } in rows {
        let value = series.median();
        let (added, ratio) = match scenario.unit() {
            Unit::MicrosPerQuery | Unit::Millis => (value - direct, value / direct),
            Unit::PerSecond => (1e6 / value - 1e6 / direct, value / direct),
        };
        let (min, max) = series.spread();
        let digits = usize::from(scenario.unit() != Unit::PerSecond);
        let spread = format!("{min:.digits$} - {max:.digits$}");
        let cpu = series.cpu().map_or_else(String::new, |cpu| format!("{cpu:.1}"));
        say(&format!(
            "  {target:width$} {value:>9.digits$} {spread:>19} {added:>+9.1} {ratio:>6.2}x {cpu:>9}"
        ))?;
    }
    Ok(())
}

/// One scenario, for machines.
pub(crate) fn value(scenario: Scenario, rows: &[Row]) -> Value {
    let unit = match scenario.unit() {
        Unit::MicrosPerQuery => "us_per_query",
        Unit::PerSecond => "tps",
        Unit::Millis => "ms",
    };
    let targets: Vec<Value> = rows
        .iter()
        .map(|Row { target, series }| {
            let (min, max) = series.spread();
            json!({
                "target": target, "median": series.median(), "min": min, "max": max,
                "cpu": series.cpu(), "rounds": series.values(),
            })
        })
        .collect();
    json!({ "scenario": scenario.title(), "unit": unit, "targets": targets })
}
