//! What was compared: a table for people, one JSON object for programs.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::Arguments;
use crate::accepted::Accepted;

/// What became of each test, or what it printed.
pub(crate) type Outcomes = BTreeMap<String, String>;

/// A suite that was run both ways.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: String,
    /// Of what, in which version.
    pub(crate) what: String,
    pub(crate) direct: Outcomes,
    pub(crate) through: Outcomes,
    /// Which outcomes of a direct run say that a test was not run.
    pub(crate) not_run: fn(&str) -> bool,
    /// Only a part was run, so nothing can be said of what did not differ.
    pub(crate) partial: bool,
    /// Why the whole suite could not be run.
    pub(crate) missing: Option<String>,
}

/// A test that did not do the same both ways.
struct Difference<'a> {
    test: &'a str,
    direct: &'a str,
    through: &'a str,
    accepted: Option<&'a Accepted>,
}

impl Suite {
    /// A suite whose tests cannot be had.
    pub(crate) fn missing(name: &str, why: &str) -> Self {
        Self {
            name: name.to_owned(),
            what: String::new(),
            direct: Outcomes::new(),
            through: Outcomes::new(),
            not_run: |_| false,
            partial: true,
            missing: Some(why.to_owned()),
        }
    }

    fn tests(&self) -> usize {
        self.names().len()
    }

    fn names(&self) -> std::collections::BTreeSet<&str> {
        self.direct.keys().chain(self.through.keys()).map(String::as_str).collect()
    }

    /// Tests that ran neither way.
    fn not_run(&self) -> Vec<(&str, &str)> {
        let is_idle = |(test, outcome): &(&String, &String)| {
            (self.not_run)(outcome) && self.through.get(*test).is_some_and(|through| (self.not_run)(through))
        };
        self.direct.iter().filter(is_idle).map(|(test, why)| (test.as_str(), why.as_str())).collect()
    }

    fn differences<'a>(&'a self, accepted: &'a [Accepted]) -> Vec<Difference<'a>> {
        let mut found = Vec::new();
        let of = |outcomes: &'a Outcomes, test: &str| outcomes.get(test).map_or("nothing", String::as_str);
        for test in self.names() {
            let (direct, through) = (of(&self.direct, test), of(&self.through, test));
            // A reason for not running may name an address.
            let idle = (self.not_run)(direct) && (self.not_run)(through);
            if direct != through && !idle {
                let accepted = accepted.iter().find(|accepted| accepted.covers(&self.name, test));
                found.push(Difference { test, direct, through, accepted });
            }
        }
        found
    }

    /// What the list accepts although it does not happen any more.
    fn stale<'a>(&self, accepted: &'a [Accepted], differences: &[Difference<'_>]) -> Vec<&'a Accepted> {
        let is_stale = |accepted: &&Accepted| {
            accepted.suite == self.name
                && !accepted.sometimes
                && !differences.iter().any(|difference| accepted.covers(&self.name, difference.test))
        };
        if self.partial { Vec::new() } else { accepted.iter().filter(is_stale).collect() }
    }
}

/// Prints everything; whether it is as the list of accepted differences says.
///
/// # Errors
/// When it cannot be printed.
pub(crate) fn report(arguments: &Arguments, accepted: &[Accepted], suites: &[Suite]) -> Result<bool> {
    let mut good = true;
    let mut objects = Vec::new();
    let mut table = vec![
        ["suite", "tests", "same", "not run", "differ", "of those unexpected", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut remarks = Vec::new();
    for suite in suites {
        let differences = suite.differences(accepted);
        let stale = suite.stale(accepted, &differences);
        let not_run = suite.not_run();
        let unexpected = differences.iter().filter(|difference| difference.accepted.is_none()).count();
        good &= unexpected == 0 && stale.is_empty();
        let same = suite.tests() - not_run.len() - differences.len();
        let counts = [suite.tests(), same, not_run.len(), differences.len(), unexpected];
        let mut row = vec![suite.name.clone()];
        row.extend(counts.map(|count| count.to_string()));
        row.push(suite.missing.clone().unwrap_or_else(|| suite.what.clone()));
        table.push(row);
        remarks.extend(remarks_on(suite, &differences, &stale));
        objects.push(object(suite, counts, &differences, &stale, &not_run));
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", json!({ "suites": objects, "as_accepted": good }))?;
    } else {
        for remark in remarks {
            writeln!(out, "{remark}")?;
        }
        write!(out, "\n{}", aligned(&table))?;
        writeln!(out, "results: {}", arguments.out.display())?;
    }
    Ok(good)
}

fn remarks_on(suite: &Suite, differences: &[Difference<'_>], stale: &[&Accepted]) -> Vec<String> {
    let mut remarks = Vec::new();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for difference in differences {
        match difference.accepted {
            Some(accepted) => *reasons.entry(&accepted.reason).or_default() += 1,
            None => remarks.push(format!(
                "{} {}: unexpected; directly {}, through {}",
                suite.name,
                difference.test,
                short(difference.direct),
                short(difference.through)
            )),
        }
    }
    remarks.extend(reasons.iter().map(|(reason, count)| format!("{}: {count} differ: {reason}", suite.name)));
    remarks.extend(stale.iter().map(|accepted| {
        format!("{} {}: accepted as a difference, but none any more: take it out", suite.name, accepted.test)
    }));
    remarks
}

/// Of an outcome what fits on a line.
fn short(outcome: &str) -> String {
    let line = outcome.lines().next().unwrap_or_default();
    let cut: String = line.chars().take(120).collect();
    if cut.len() < outcome.len() { format!("{cut}…") } else { cut }
}

fn object(
    suite: &Suite,
    [tests, same, _, _, unexpected]: [usize; 5],
    differences: &[Difference<'_>],
    stale: &[&Accepted],
    not_run: &[(&str, &str)],
) -> Value {
    let differences: Vec<Value> = differences
        .iter()
        .map(|difference| {
            json!({
                "test": difference.test,
                "direct": short(difference.direct),
                "through": short(difference.through),
                "accepted": difference.accepted.map(|accepted| accepted.reason.as_str()),
            })
        })
        .collect();
    let not_run: Vec<Value> = not_run.iter().map(|(test, why)| json!({ "test": test, "why": why })).collect();
    let stale: Vec<&str> = stale.iter().map(|accepted| accepted.test.as_str()).collect();
    json!({
        "suite": suite.name, "what": suite.what, "missing": suite.missing,
        "tests": tests, "same": same, "unexpected": unexpected,
        "differences": differences, "not_run": not_run, "no_longer_different": stale,
    })
}

fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in table {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
