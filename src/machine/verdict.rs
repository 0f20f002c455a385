//! Looks at a worker → verdict: k good in a row, m bad in a row. One rule for readiness and liveness.

/// What one look at a worker saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It is as it should be.
    Good,
    /// It is not; the text says how, for people.
    Bad(String),
}

/// What the looks so far mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough of a kind in a row.
    Undecided,
    /// Enough good looks in a row.
    Pass,
    /// Enough bad looks in a row; the text is the last one's.
    Fail(String),
}

/// How many bad looks in a row are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// No number is: a worker that starts is bad only when its time is over, and that is for the machine to say.
    Endless,
    /// This many. Zero counts as one.
    Looks(u32),
}

/// Counts looks of the same kind in a row. After a verdict, counting starts anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    successes: u32,
    patience: Patience,
    run: Run,
}

/// The looks of one kind since the last of the other kind, or since the last verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    Good(u32),
    Bad(u32),
}

impl Tally {
    /// Nothing counted yet; `successes` good looks in a row pass (zero counts as one).
    #[must_use]
    pub fn new(successes: u32, patience: Patience) -> Self {
        Self { successes, patience, run: Run::Good(0) }
    }

    /// Counts one look.
    #[must_use]
    pub fn count(&mut self, look: Look) -> Verdict {
        let verdict = match look {
            Look::Good => self.count_good(),
            Look::Bad(how) => self.count_bad(how),
        };
        match verdict {
            Verdict::Undecided => {}
            Verdict::Pass | Verdict::Fail(_) => self.run = Run::Good(0),
        }
        verdict
    }

    fn count_good(&mut self) -> Verdict {
        let seen = match self.run {
            Run::Good(seen) => seen.saturating_add(1),
            Run::Bad(_) => 1,
        };
        self.run = Run::Good(seen);
        if seen >= self.successes { Verdict::Pass } else { Verdict::Undecided }
    }

    fn count_bad(&mut self, how: String) -> Verdict {
        let seen = match self.run {
            Run::Bad(seen) => seen.saturating_add(1),
            Run::Good(_) => 1,
        };
        self.run = Run::Bad(seen);
        match self.patience {
            Patience::Looks(limit) if seen >= limit => Verdict::Fail(how),
            Patience::Looks(_) | Patience::Endless => Verdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bad() -> Look {
        Look::Bad("bad".to_owned())
    }

    fn verdicts(tally: &mut Tally, looks: &str) -> String {
        let mut word = String::new();
        for look in looks.chars() {
            let look = if look == 'g' { Look::Good } else { bad() };
            word.push(match tally.count(look) {
                Verdict::Undecided => '-',
                Verdict::Pass => 'P',
                Verdict::Fail(_) => 'F',
            });
        }
        word
    }

    #[test]
    fn good_looks_pass_only_in_a_row() {
        let mut tally = Tally::new(3, Patience::Looks(2));
        assert_eq!(verdicts(&mut tally, "ggbgggggg"), "-----P--P");
    }

    #[test]
    fn bad_looks_fail_only_in_a_row() {
        let mut tally = Tally::new(1, Patience::Looks(2));
        assert_eq!(verdicts(&mut tally, "bgbbbb"), "-P-F-F");
    }

    #[test]
    fn endless_patience_never_fails_but_a_bad_look_still_breaks_the_row() {
        let mut tally = Tally::new(2, Patience::Endless);
        assert_eq!(verdicts(&mut tally, "bbbbgbgg"), "-------P");
    }

    #[test]
    fn the_text_of_a_failure_is_the_last_look_s() {
        let mut tally = Tally::new(1, Patience::Looks(2));
        assert_eq!(tally.count(Look::Bad("first".to_owned())), Verdict::Undecided);
        assert_eq!(tally.count(Look::Bad("second".to_owned())), Verdict::Fail("second".to_owned()));
    }

    proptest! {
        /// The rule said another way: a verdict falls exactly when the looks since the last verdict end in a full row.
        #[test]
        fn a_verdict_falls_exactly_at_a_full_row(
            successes in 1_u32..5, failures in 1_u32..5, looks in proptest::collection::vec(any::<bool>(), 0..60)
        ) {
            let mut tally = Tally::new(successes, Patience::Looks(failures));
            let mut since: Vec<bool> = Vec::new();
            for good in looks {
                since.push(good);
                let row = since.iter().rev().take_while(|&&it| it == good).count();
                let full = if good { successes } else { failures };
                let expected = match (row as u32 >= full, good) {
                    (false, _) => Verdict::Undecided,
                    (true, true) => Verdict::Pass,
                    (true, false) => Verdict::Fail("bad".to_owned()),
                };
                if expected != Verdict::Undecided {
                    since.clear();
                }
                prop_assert_eq!(tally.count(if good { Look::Good } else { bad() }), expected);
            }
        }

        /// Whatever came before, k good looks pass: no history locks a worker out.
        #[test]
        fn enough_good_looks_always_pass(
            successes in 0_u32..6, failures in 0_u32..6, looks in proptest::collection::vec(any::<bool>(), 0..30)
        ) {
            let mut tally = Tally::new(successes, Patience::Looks(failures));
            for good in looks {
                let _ = tally.count(if good { Look::Good } else { bad() });
            }
            let passed = (0..successes.max(1)).any(|_| tally.count(Look::Good) == Verdict::Pass);
            prop_assert!(passed);
        }

        #[test]
        fn endless_patience_never_fails(looks in proptest::collection::vec(any::<bool>(), 0..200)) {
            let mut tally = Tally::new(3, Patience::Endless);
            for good in looks {
                let verdict = tally.count(if good { Look::Good } else { bad() });
                prop_assert!(!matches!(verdict, Verdict::Fail(_)));
            }
        }
    }
}
