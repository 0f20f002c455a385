//! Properties of the machine over random histories, bugs planted at its seam to prove that each law can be seen to
//! fail, and every history of one and two workers.

#![expect(clippy::print_stdout, reason = "what was searched and found is for whoever asks with --nocapture")]

mod machine;

use machine::history::{history, play};
use machine::hunt::hunt;
use machine::laws::Law;
use machine::planted::{BUGS, Planted};
use machine::seam::Shipped;
use machine::search::{Budget, End, limits, search};
use proptest::test_runner::{Config, FileFailurePersistence};

/// 3,000 histories of up to 60 events take some 10 s on a slow core without optimisation.
fn config() -> Config {
    let regressions = Some(Box::new(FileFailurePersistence::WithSource("regressions")) as _);
    let config = Config { failure_persistence: regressions, ..Config::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => Config { cases: 3000, ..config },
    }
}

proptest::proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_law_holds_in_every_history(history in history()) {
        if let Err(violation) = play(&history, Shipped::default()) {
            panic!("{violation}");
        }
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for (bug, law) in BUGS {
        match hunt(law, 2000, || Planted::new(bug)) {
            Some((tried, violation)) => println!("{bug:?}: {violation} (history {tried})"),
            None => missed.push((bug, law)),
        }
    }
    assert!(missed.is_empty(), "not found in 2,000 histories: {missed:?}");
}

#[test]
fn every_law_has_a_bug_that_breaks_it() {
    let laws = [
        Law::NoGhost,
        Law::ReadyFirst,
        Law::Capacity,
        Law::Surge,
        Law::Draining,
        Law::Deadline,
        Law::OneEnd,
        Law::NoReuse,
        Law::Again,
        Law::Liveness,
        Law::Bounded,
        Law::OneRollout,
    ];
    for law in laws {
        assert!(BUGS.iter().any(|(_, broken)| *broken == law), "nothing breaks {law:?}");
    }
}

/// Releases 1, 5..9 are good, exit at once, are never ready, die or sicken before they are admitted, die of it.
#[test]
fn every_order_of_events_keeps_the_laws() {
    let none = Budget { crashes: 0, agent_deaths: 0 };
    let crash = Budget { crashes: 1, ..none };
    let both = Budget { agent_deaths: 1, ..crash };
    // Workers, surge, unavailable, releases, what may go wrong, how many states are enough, how it ends.
    let searches = [
        ((1, 1, 0), &[1, 5, 6, 7, 9][..], both, 4000, End::Exhausted),
        ((1, 1, 0), &[8], crash, 4000, End::Exhausted),
        ((1, 0, 1), &[1, 5, 6, 7, 8, 9], none, 4000, End::Exhausted),
        ((2, 1, 0), &[1], none, 4000, End::Exhausted),
        ((2, 1, 0), &[5, 6], crash, 4000, End::Exhausted),
        ((2, 1, 0), &[7], both, 1500, End::Cut),
        ((2, 0, 1), &[9], both, 1500, End::Cut),
    ];
    for ((workers, max_surge, max_unavailable), releases, budget, most, end) in searches {
        for release in releases {
            let what = format!("N {workers} + {max_surge} - {max_unavailable}, release {release}, {budget:?}");
            match search(&limits(workers, max_surge, max_unavailable), *release, budget, most) {
                Ok(searched) => {
                    println!("{what}: {} states", searched.states);
                    assert_eq!(searched.end, end, "{what}");
                }
                Err(broken) => panic!("{what}: {broken}"),
            }
        }
    }
}
