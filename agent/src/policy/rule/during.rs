//! When a rule applies: hours of the week, by the clocks of a place.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Minutes of a day.
pub const DAY_MINUTES: u16 = 24 * 60;

/// `during = [...]`: the rule matches inside of one of these. Empty is always.
#[derive(Clone, Debug)]
pub struct During {
    /// As listed.
    pub windows: Vec<Window>,
    /// `[defaults] time_zone`: whose clocks; its changes to and from summer time count.
    pub zone: TimeZone,
}

impl Default for During {
    fn default() -> Self {
        Self { windows: Vec::new(), zone: TimeZone::UTC }
    }
}

/// Hours on some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Days on which it begins, Monday first.
    pub days: [bool; 7],
    /// Minute of the day at which it begins.
    pub from: u16,
    /// Minute of the day before which it ends; one that is not after `from` is the next day's.
    pub to: u16,
}

impl During {
    /// Whether the rule applies at this moment, in milliseconds since 1970-01-01T00:00:00Z. A moment that no calendar
    /// has is outside.
    #[must_use]
    pub fn contains(&self, at_ms: u64) -> bool {
        if self.windows.is_empty() {
            return true;
        }
        let moment = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let Some(moment) = moment else { return false };
        let local = self.zone.to_datetime(moment);
        let day = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or_default();
        let minute = u16::try_from(local.hour()).unwrap_or_default() * 60
            + u16::try_from(local.minute()).unwrap_or_default();
        self.windows.iter().any(|window| window.contains(day, minute))
    }
}

impl Window {
    fn contains(&self, day: usize, minute: u16) -> bool {
        let begins = |day: usize| self.days.get(day % 7).copied().unwrap_or(false);
        if self.from < self.to {
            return begins(day) && (self.from..self.to).contains(&minute);
        }
        (begins(day) && minute >= self.from) || (begins(day + 6) && minute < self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    #[test]
    fn windows_are_of_the_zones_own_clocks() {
        let weekdays = [true, true, true, true, true, false, false];
        let office = Window { days: weekdays, from: 8 * 60, to: 18 * 60 };
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let office = During { windows: vec![office], zone };
        for (moment, inside) in [
            // Friday, winter time: an hour ahead of UTC.
            ("2026-11-27T06:59:59Z", false),
            ("2026-11-27T07:00:00Z", true),
            ("2026-11-27T16:59:59Z", true),
            ("2026-11-27T17:00:00Z", false),
            // Saturday.
            ("2026-11-28T09:00:00Z", false),
            // Monday, summer time: two hours.
            ("2026-07-06T06:00:00Z", true),
            ("2026-07-06T05:59:00Z", false),
        ] {
            assert_eq!(office.contains(at(moment)), inside, "{moment}");
        }
        assert!(!office.contains(u64::MAX), "no calendar has it");
        assert!(During::default().contains(u64::MAX));
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_begins() {
        let fridays = [false, false, false, false, true, false, false];
        let night = During {
            windows: vec![Window { days: fridays, from: 22 * 60, to: 6 * 60 }],
            ..During::default()
        };
        for (moment, inside) in [
            ("2026-11-27T21:59:00Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T05:59:00Z", true),
            ("2026-11-28T06:00:00Z", false),
            ("2026-11-28T22:30:00Z", false),
            ("2026-11-27T03:00:00Z", false),
        ] {
            assert_eq!(night.contains(at(moment)), inside, "{moment}");
        }
        let always = Window { days: [true; 7], from: 0, to: DAY_MINUTES };
        let always = During { windows: vec![always], ..During::default() };
        assert!(always.contains(at("2026-11-28T23:59:59Z")));
    }
}
