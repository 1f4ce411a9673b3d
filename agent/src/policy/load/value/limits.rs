//! What a rule's limits, budgets and hours are written in.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::{HoldTime, plain, whole_number, whole_time};
use crate::policy::diagnostic::quoted;
use crate::policy::load::table::{Choice, Findings, Read, Word, noun};
use crate::policy::rule::{BUDGET_WINDOW_MAX, DAY_MINUTES, Mode, STATEMENT_TIME_MAX, Window};

/// Longest name of a time zone, in characters.
const ZONE_CHARS_MAX: usize = 64;

/// Days of the week as policies write them, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Choice for Mode {
    const NOUN: &'static str = "a mode";
    const ALL: &'static [(&'static str, Self)] = &[("enforce", Self::Enforce), ("shadow", Self::Shadow)];
}

/// A number of rows or statements, of at least one.
pub(in crate::policy::load) struct Count(pub(in crate::policy::load) u64);

impl Read for Count {
    fn read(value: &Spanned<DeValue<'_>>, findings: &mut Findings<'_>) -> Option<Self> {
        let number = whole_number(value.get_ref());
        let number = number.filter(|number| *number > 0);
        if number.is_none() {
            let found = noun(value.get_ref());
            findings.error(value.span(), format!("expected a whole number of at least 1, found {found}"));
        }
        number.map(Self)
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 1 })
    }
}

/// `timeout =`: how long a statement may run.
pub(in crate::policy::load) struct StatementTime(pub(in crate::policy::load) Duration);

impl Word for StatementTime {
    const WHAT: &'static str = "a time such as \"30s\"";

    fn parse(text: &str) -> Result<Self, String> {
        bounded(text, STATEMENT_TIME_MAX).map(Self)
    }

    fn pattern() -> Value {
        HoldTime::pattern()
    }
}

/// `per =`: how long a budget is counted over.
pub(in crate::policy::load) struct BudgetWindow(pub(in crate::policy::load) Duration);

impl Word for BudgetWindow {
    const WHAT: &'static str = "a time such as \"1m\"";

    fn parse(text: &str) -> Result<Self, String> {
        bounded(text, BUDGET_WINDOW_MAX).map(Self)
    }

    fn pattern() -> Value {
        HoldTime::pattern()
    }
}

fn bounded(text: &str, most: Duration) -> Result<Duration, String> {
    let time = whole_time(text)?;
    if time.is_zero() || time > most {
        let hours = most.as_secs() / 3600;
        return Err(format!("{} is out of range; from 1 s to {hours} h", quoted(text)));
    }
    Ok(time)
}

/// `[defaults] time_zone =`: a name of the IANA time zone database, as far as this host has it.
pub(in crate::policy::load) struct ZoneName(pub(in crate::policy::load) TimeZone);

impl Word for ZoneName {
    const WHAT: &'static str = "a time zone such as \"Europe/Berlin\"";

    fn parse(text: &str) -> Result<Self, String> {
        let name = plain(text, Self::WHAT, ZONE_CHARS_MAX)?;
        if name == "UTC" {
            return Ok(Self(TimeZone::UTC));
        }
        TimeZone::get(&name).map(Self).map_err(|_| {
            format!(
                "{} is no time zone of this host; write \"UTC\" or a name such as \"Europe/Berlin\" (they come with the \
                 package tzdata)",
                quoted(text)
            )
        })
    }

    fn pattern() -> Value {
        json!({ "minLength": 1, "maxLength": ZONE_CHARS_MAX })
    }
}

impl Word for Window {
    const WHAT: &'static str = "hours such as \"Mon-Fri 08:00-18:00\"";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is no stretch of the week; write days and hours, such as \"Mon-Fri 08:00-18:00\", \"Sat,Sun \
                 00:00-24:00\" or \"22:00-06:00\"",
                quoted(text)
            )
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match words.as_slice() {
            [hours] => ([true; 7], *hours),
            [days, hours] => (days_of(days).ok_or_else(wrong)?, *hours),
            _ => return Err(wrong()),
        };
        let (from, to) = hours.split_once('-').ok_or_else(wrong)?;
        let (from, to) = (minute(from).ok_or_else(wrong)?, minute(to).ok_or_else(wrong)?);
        if from == DAY_MINUTES || from == to {
            return Err(wrong());
        }
        Ok(Self { days, from, to })
    }

    fn pattern() -> Value {
        json!({ "pattern": "^([A-Za-z]{3}([-,][A-Za-z]{3})* +)?[0-9]{2}:[0-9]{2}-[0-9]{2}:[0-9]{2}$" })
    }
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + DAYS.len() - first) % DAYS.len();
        for at in first..=first + length {
            *days.get_mut(at % DAYS.len())? = true;
        }
    }
    Some(days)
}

/// `HH:MM`, to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u16>())
    };
    let (hours, minutes) = (number(hours)?.ok()?, number(minutes)?.ok()?);
    (minutes < 60).then_some(hours * 60 + minutes).filter(|minute| *minute <= DAY_MINUTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_read_as_people_write_them() {
        let week = |text: &str| -> [bool; 7] {
            let days: Vec<bool> = text.chars().map(|day| day != '-').collect();
            days.try_into().unwrap()
        };
        for (text, days, from, to) in [
            ("Mon-Fri 08:00-18:00", "MTWTF--", 480, 1080),
            ("sat,SUN 00:00-24:00", "-----SS", 0, 1440),
            ("Fri-Mon 22:00-06:30", "M---FSS", 1320, 390),
            ("Wed 09:15-09:16", "--W----", 555, 556),
            ("22:00-06:00", "MTWTFSS", 1320, 360),
        ] {
            assert_eq!(Window::parse(text), Ok(Window { days: week(days), from, to }), "{text}");
        }
        for text in [
            "",
            "Mon",
            "8:00-18:00",
            "08:00",
            "08:00-25:00",
            "08:60-09:00",
            "24:00-08:00",
            "08:00-08:00",
            "Montag 08:00-18:00",
            "Mon- 08:00-18:00",
            "Mon-Fri 08:00 - 18:00",
            "+8:00-18:00",
        ] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn zones_are_the_hosts() {
        assert!(ZoneName::parse("Europe/Berlin").is_ok());
        assert!(ZoneName::parse("UTC").is_ok());
        assert!(ZoneName::parse("Middle/Earth").is_err());
    }
}
