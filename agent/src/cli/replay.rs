//! `portcullis replay`: watch a recorded conversation at the pace it had.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::sessions::SessionsError;
use super::terminal::Style;
use super::transcript::Transcript;
use crate::record::read::Catalogue;

/// Longest pause between two events: nobody watches an idle session.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// Arguments of `portcullis replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Session id, a unique beginning or end of one, or `last`.
    pub id: String,
    /// How many times faster than it was; `max` or 0 does not wait at all.
    #[arg(long, value_name = "X", default_value = "1", value_parser = parse_speed)]
    pub speed: Speed,
}

/// How fast a replay runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Without waiting.
    Max,
    /// This many times faster than recorded; positive and finite.
    Times(f64),
}

fn parse_speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    match text.parse::<f64>() {
        Ok(0.0) => Ok(Speed::Max),
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        Ok(_) | Err(_) => Err("give a positive number, or `max`".to_owned()),
    }
}

impl Speed {
    /// The pause that stands for a recorded one.
    fn pause(self, recorded: Duration) -> Duration {
        match self {
            Self::Max => Duration::ZERO,
            // A quotient beyond what a Duration holds is an idle session like any other.
            Self::Times(times) => {
                Duration::try_from_secs_f64(recorded.as_secs_f64() / times).unwrap_or(IDLE_MAX).min(IDLE_MAX)
            }
        }
    }
}

/// Runs `portcullis replay` on the recording below `data_dir`; `sleep` waits.
///
/// # Errors
/// The recording cannot be read, no such session, or the output fails.
pub fn run(
    args: &ReplayArgs,
    data_dir: &Path,
    out: &mut dyn Write,
    style: Style,
    sleep: &mut dyn FnMut(Duration),
) -> Result<(), SessionsError> {
    let catalogue = Catalogue::open(data_dir)?;
    let events = catalogue.events(catalogue.resolve(&args.id)?)?;
    let mut transcript = Transcript::new(out, style, u64::MAX);
    let mut before = None;
    for recorded in events {
        let recorded = recorded?;
        // Clocks of two openings of the store do not compare; a step back is no pause.
        let now = recorded.header.monotonic_ns;
        let gap = Duration::from_nanos(now.saturating_sub(before.unwrap_or(now)));
        before = Some(now);
        let pause = args.speed.pause(gap);
        if !pause.is_zero() {
            transcript.flush()?;
            sleep(pause);
        }
        transcript.event(&recorded)?;
    }
    Ok(transcript.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_bounded() {
        assert_eq!(parse_speed("max"), Ok(Speed::Max));
        assert_eq!(parse_speed("0"), Ok(Speed::Max));
        assert_eq!(parse_speed("2.5"), Ok(Speed::Times(2.5)));
        for bad in ["-1", "inf", "NaN", "fast", ""] {
            assert!(parse_speed(bad).is_err(), "{bad}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(Speed::Times(4.0).pause(second), Duration::from_millis(250));
        assert_eq!(Speed::Times(1.0).pause(100 * second), IDLE_MAX);
        assert_eq!(Speed::Times(f64::MIN_POSITIVE).pause(second), IDLE_MAX);
        assert_eq!(Speed::Max.pause(second), Duration::ZERO);
    }
}
