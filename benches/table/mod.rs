//! The rows of the table, by subject.

mod agent;
mod bare;
mod crash;
mod figure;
mod path;
mod rolling;
pub(crate) mod saturate;
mod size;
mod slots;
mod watched;
pub(crate) mod worker;

use std::process::ExitCode;
use std::time::Duration;

use rollout::sys::clock;

use figure::Figure;

/// What makes the rows of one subject.
type Subject = fn() -> Vec<Figure>;

/// In the order of the table.
const SUBJECTS: [(&str, Subject); 6] = [
    ("path", path::figures),
    ("rolling", rolling::figures),
    ("slots", slots::figures),
    ("crash", crash::figures),
    ("watched", watched::figures),
    ("size", size::figures),
];

/// Measures what is asked for, everything if nothing is, and prints it.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]
pub(crate) fn print(arguments: &[String]) -> ExitCode {
    let asked: Vec<&str> = arguments.iter().map(String::as_str).filter(|it| !it.starts_with('-')).collect();
    let began = clock::now();
    let mut figures = Vec::new();
    for (name, measure) in SUBJECTS {
        if asked.is_empty() || asked.contains(&name) {
            eprintln!("measuring: {name}");
            figures.extend(measure());
        }
    }
    println!("{}", figure::table(&figures));
    eprintln!("took {:.0} s", clock::now().since(began).as_secs_f64());
    ExitCode::SUCCESS
}

/// Lets time pass: for what is measured per time.
fn pass(time: Duration) {
    let end = clock::now().after(time);
    while !clock::until(end).is_zero() {
        std::thread::park_timeout(clock::until(end));
    }
}
