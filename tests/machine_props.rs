//! Properties of the machine over random histories, bugs planted at its seam to prove that each law can be seen to
//! fail, and every history of one and two workers.

mod machine;

use machine::history::{history, play};
use machine::hunt::hunt;
use machine::laws::Law;
use machine::planted::{BUGS, Planted};
use machine::seam::Shipped;
use machine::search::{End, limits, search};
use proptest::test_runner::{Config, FileFailurePersistence};

/// 3,000 histories of up to 60 events take about 15 s on two slow cores without optimisation.
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

#[test]
fn every_order_of_events_keeps_the_laws() {
    for number in [1, 4, 5, 6, 7, 8, 9, 10] {
        for (workers, max_surge, max_unavailable) in [(1, 1, 0), (1, 0, 1), (2, 1, 0), (2, 0, 1)] {
            let searched = search(&limits(workers, max_surge, max_unavailable), number, 2000);
            match searched {
                Ok(searched) => {
                    println!("release {number}, N {workers} + {max_surge} - {max_unavailable}: {searched:?}")
                }
                Err(broken) => panic!("release {number}, N {workers} + {max_surge} - {max_unavailable}: {broken}"),
            }
        }
    }
    let _ = End::Cut;
}
