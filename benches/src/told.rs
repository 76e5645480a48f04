//! Programs that time their own calls: started in turn, each prints a line `NAME... NUMBER` for each thing it timed.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::measure::{Figures, Quartiles};
use crate::turns::{Expected, Rounds, Side, take_telling};

/// What one side told in each round.
#[derive(Debug)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// By round; nothing where it had no turn.
    pub rounds: Vec<Figures>,
    /// Why there are none.
    pub fault: Option<String>,
}

impl Told {
    /// Quartiles of one number.
    #[must_use]
    pub fn quartiles(&self, of: &str) -> Quartiles {
        let numbers = self.rounds.iter().filter_map(|round| round.get(of));
        Quartiles::of(numbers.copied().collect())
    }

    /// Quartiles of its ratios to the same number of another, round by round.
    #[must_use]
    pub fn ratio(&self, to: &Self, of: &str) -> Quartiles {
        Quartiles::of(self.pairs(to, of, |own, other| own / other))
    }

    /// Quartiles of its differences, likewise.
    #[must_use]
    pub fn over(&self, other: &Self, of: &str) -> Quartiles {
        Quartiles::of(self.pairs(other, of, |own, other| own - other))
    }

    fn pairs(&self, other: &Self, of: &str, both: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let rounds = self.rounds.iter().zip(&other.rounds);
        rounds
            .filter_map(|(own, other)| Some(both(*own.get(of)?, *other.get(of)?)))
            .collect()
    }
}

/// Starts all sides once a round and keeps what they print. The first must work, the others have a fault if they do not.
///
/// # Errors
/// If the first does not work, or a line is not understood.
pub fn take(
    sides: Vec<(String, std::process::Command)>,
    rounds: usize,
) -> anyhow::Result<Vec<Told>> {
    let side = |(name, command)| Side {
        name,
        command,
        expected: Expected::Success,
    };
    let mut sides: Vec<_> = sides.into_iter().map(side).collect();
    let mut told: BTreeMap<usize, Vec<Figures>> = BTreeMap::new();
    let rounds = Rounds {
        count: rounds,
        by_length: false,
        before: None,
    };
    let taken = take_telling(&mut sides, rounds, &mut |side, output| {
        told.entry(side).or_default().push(figures(output)?);
        Ok(())
    })?;
    let with_rounds = taken.into_iter().enumerate().map(|(side, taken)| {
        let mut figures = told.remove(&side).unwrap_or_default().into_iter();
        let of_round = |start: &Option<_>| match start {
            Some(_) => figures.next().unwrap_or_default(),
            None => Figures::new(),
        };
        Told {
            name: taken.name,
            rounds: match taken.fault {
                None => taken.starts.iter().map(of_round).collect(),
                Some(_) => Vec::new(),
            },
            fault: taken.fault,
        }
    });
    Ok(with_rounds.collect())
}

fn figures(output: &[u8]) -> anyhow::Result<Figures> {
    let text = std::str::from_utf8(output)?;
    let line = |line: &str| {
        let (name, number) = line.rsplit_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.lines()
        .map(|text| line(text).with_context(|| format!("a line of a guest: {text:?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn side(name: &str, script: &str) -> (String, Command) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        (name.to_owned(), command)
    }

    #[test]
    fn numbers_are_told_by_round_and_compared_in_it() -> anyhow::Result<()> {
        let sides = vec![
            side("peer", "echo 'stat 3 100.5'; echo open 10"),
            side("own", "echo 'stat 3 201'; echo open 12"),
            side("broken", "echo open 1; exit 1"),
        ];
        let told = take(sides, 3)?;
        assert_eq!(told[1].rounds.len(), 3);
        assert!((told[1].ratio(&told[0], "stat 3").p50 - 2.0).abs() < 1e-9);
        assert!((told[1].over(&told[0], "open").p50 - 2.0).abs() < 1e-9);
        assert!(told[2].rounds.is_empty() && told[2].fault.is_some());
        assert!(told[2].ratio(&told[0], "open").p50.is_nan());
        Ok(())
    }

    #[test]
    fn a_line_without_a_number_is_an_error() {
        assert!(figures(b"open twelve\n").is_err());
    }
}
