//! A rollout from its request to its report: shared by deploy, restart, rollback and scale.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::args::Whose;
use super::client::{Client, ClientError, Lines};
use super::exit::{Exit, Failure};
use super::pick::pick;
use super::progress::{Format, Screen};
use super::recover::{self, Known};
use super::words::{self, tame, took};
use super::{host, render};
use crate::wire::api::{self, Outcome, Progress, Report, Step};

/// How a rollout is followed.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Return as soon as the agent has taken the request
    #[arg(long)]
    no_wait: bool,
    /// Print each step as a line of JSON
    #[arg(long)]
    json: bool,
    /// Stop waiting after this time; the rollout goes on (exit 7)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    timeout: Option<Duration>,
}

/// How far a rollout is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    UntilOver,
    UntilTaken,
}

/// Why following ended.
enum End {
    Over(Report),
    /// The agent has taken the request, and that is all that was asked.
    Taken,
    TimedOut,
    Interrupted,
}

impl How {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }

    fn wait(&self) -> Wait {
        if self.no_wait { Wait::UntilTaken } else { Wait::UntilOver }
    }
}

/// Asks for a rollout and follows it.
pub(super) fn roll(whose: Whose, verb: &str, question: &impl Serialize, how: &How) -> Result<Exit, Failure> {
    host::block_on(async {
        let deadline = how.timeout.map(|time| Instant::now() + time);
        let interrupt = host::Interrupt::catch()?;
        let mut screen = Screen::new(how.format());
        let mut known = Known::default();
        let mut name = None;
        let follow = async {
            let (client, service) = pick(whose).await?;
            name = Some(service.clone());
            let path = format!("/v1/services/{service}/{verb}");
            let steps = client.post_lines(&path, question).await?;
            follow(&client, &service, steps, how.wait(), &mut screen, &mut known).await
        };
        let end = tokio::select! {
            biased;
            () = interrupt.came() => Ok(End::Interrupted),
            () = reached(deadline) => Ok(End::TimedOut),
            end = follow => end,
        };
        screen.finish();
        let service = name.unwrap_or_else(|| "the service".to_owned());
        conclude(&service, end?, &known, how)
    })
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn follow(
    client: &Client,
    service: &str,
    mut steps: Lines<Step>,
    wait: Wait,
    screen: &mut Screen,
    known: &mut Known,
) -> Result<End, Failure> {
    loop {
        match steps.next().await {
            Ok(Some(step)) => {
                known.learn(&step.progress);
                screen.show(service, &step)?;
                let is_taken = matches!(step.progress, Progress::Began { .. } | Progress::Queued { .. });
                if let Progress::Ended(report) = step.progress {
                    return Ok(End::Over(report));
                }
                if is_taken && wait == Wait::UntilTaken {
                    return Ok(End::Taken);
                }
            }
            Ok(None) | Err(ClientError::Cut(_)) => break,
            Err(error) => return Err(error.into()),
        }
    }
    screen.remark(&format!("{service}: the connection to the agent was lost: waiting for it to come back"));
    recover::outcome(client, service, known).await.map(End::Over)
}

fn conclude(service: &str, end: End, known: &Known, how: &How) -> Result<Exit, Failure> {
    let follow = format!("follow it with 'rollout status --watch', and see its end in 'rollout history -s {service}'");
    match end {
        End::Over(report) => tell(&report, how.format()),
        End::Taken => {
            if how.format() == Format::Text {
                let rollout = known.rollout.map_or_else(|| "the rollout".to_owned(), |id| format!("rollout {id}"));
                render::print(&format!("{service}: {rollout} is under way: {follow}"))?;
            }
            Ok(Exit::Done)
        }
        End::TimedOut => {
            Err(Failure::told(Exit::GaveUp, format!("{service}: not over in time: {}{follow}", goes_on(known))))
        }
        End::Interrupted => Err(Failure::told(Exit::GaveUp, format!("{service}: {}{follow}", goes_on(known)))),
    }
}

/// Only what is known is promised.
fn goes_on(known: &Known) -> String {
    match known.rollout {
        Some(rollout) => format!("rollout {rollout} goes on: "),
        None => "the request may have been taken, and then its rollout goes on: ".to_owned(),
    }
}

/// Tells a report: success on stdout, anything else on stderr.
fn tell(report: &Report, format: Format) -> Result<Exit, Failure> {
    let exit = Exit::from_agent(report.exit);
    match (exit, format) {
        (Exit::Done, Format::Json) => {}
        (Exit::Done, Format::Text) => match render::print(&success(report)) {
            // The exit code is the answer; nobody wants the sentence.
            Ok(()) | Err(Failure::StdoutClosed) => {}
            Err(failure) => return Err(failure),
        },
        _ => drop(writeln!(io::stderr(), "{}", failure(report))),
    }
    Ok(exit)
}

fn success(report: &Report) -> String {
    let Report { service, said, took_ms, outcome, .. } = report;
    let text = format!("{service}: {}", tame(said));
    if *outcome == Outcome::AlreadyLive { text } else { format!("{text} ({})", took(*took_ms)) }
}

fn failure(report: &Report) -> String {
    let Report { service, said, failure, outcome, took_ms, .. } = report;
    let mut text = format!("rollout: {service}: {} (after {})", tame(said), took(*took_ms));
    let mut add = |line: String| write!(text, "\n{line}").expect("a String takes everything");
    if let Some(api::Failure { slot, worker, why, output }) = failure {
        // The sentence has said it already, unless another worker was the last straw.
        if !said.contains(why.as_str()) {
            add(format!("  slot {slot}, worker {worker}: {}", tame(why)));
        }
        if output.is_empty() {
            add("  it wrote nothing".to_owned());
        } else {
            add("  its last output:".to_owned());
            output.iter().for_each(|line| add(format!("    | {}", tame(line))));
        }
    }
    if let Some(next) = next_step(service, *outcome) {
        add(format!("  next: {next}"));
    }
    text
}

fn next_step(service: &str, outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::RolledBack => {
            Some(format!("'rollout logs -s {service}' shows more; mend the release and deploy again"))
        }
        Outcome::NeedsPerson => Some(format!(
            "'rollout status' shows what runs; 'rollout resume -s {service}' goes on, 'rollout abort -s {service}' goes back"
        )),
        Outcome::Superseded => Some(format!("'rollout history -s {service}' shows what took its place")),
        Outcome::Done | Outcome::AlreadyLive | Outcome::Stopped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{RolloutId, Slot};

    fn report(outcome: Outcome, exit: u8) -> Report {
        Report {
            rollout: Some(RolloutId(7)),
            service: "web".to_owned(),
            outcome,
            release: None,
            said: "every slot is back on 1111".to_owned(),
            failure: Some(api::Failure {
                slot: Slot(3),
                worker: "w9".to_owned(),
                why: "exit code 1 before it was ready".to_owned(),
                output: vec!["no \u{1b}[31mdatabase".to_owned()],
            }),
            took_ms: 1234,
            exit,
        }
    }

    #[test]
    fn a_failed_rollout_says_where_why_what_the_worker_wrote_and_what_to_do() {
        let text = failure(&report(Outcome::RolledBack, 3));
        assert_eq!(
            text,
            "rollout: web: every slot is back on 1111 (after 1.2 s)
  slot 3, worker w9: exit code 1 before it was ready
  its last output:
    | no \\u{1b}[31mdatabase
  next: 'rollout logs -s web' shows more; mend the release and deploy again"
        );
    }

    #[test]
    fn what_the_sentence_says_is_not_said_again() {
        let mut report = report(Outcome::RolledBack, 3);
        report.said = "worker w9 in slot 3 exit code 1 before it was ready; every slot is back on 1111".to_owned();
        let text = failure(&report);
        assert_eq!(text.matches("before it was ready").count(), 1, "{text}");
        assert!(text.contains("no \\u{1b}[31mdatabase"), "{text}");
    }

    #[test]
    fn one_that_needs_a_person_says_how_to_go_on_and_how_to_go_back() {
        let text = failure(&report(Outcome::NeedsPerson, 4));
        assert!(text.contains("rollout resume -s web") && text.contains("rollout abort -s web"), "{text}");
    }
}
