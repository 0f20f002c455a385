//! What a worker says on its notify socket (sd_notify(3)), as data.

use std::time::Duration;

/// One statement of a message that means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// `READY=1`.
    Ready,
    /// `STATUS=`: one line for people.
    Status(String),
    /// `WATCHDOG=1`: it is alive.
    Alive,
    /// `WATCHDOG=trigger`: it wants to be taken for dead.
    Trigger,
    /// `EXTEND_TIMEOUT_USEC=`: it needs this much more time.
    Extend(Duration),
    /// `STOPPING=1`.
    Stopping,
    /// `RELOADING=1`.
    Reloading,
}

/// A longer status is cut: it goes into events and logs, once per change.
const LONGEST_STATUS: usize = 256;

/// The statements of a message, in order. What is not understood is passed over, as sd_notify(3) asks of receivers.
#[must_use]
pub(super) fn statements(message: &[u8]) -> Vec<Statement> {
    message.split(|&byte| byte == b'\n').filter_map(statement).collect()
}

fn statement(line: &[u8]) -> Option<Statement> {
    let equals = line.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (&line[..equals], &line[equals + 1..]);
    match (name, value) {
        (b"READY", b"1") => Some(Statement::Ready),
        (b"WATCHDOG", b"1") => Some(Statement::Alive),
        (b"WATCHDOG", b"trigger") => Some(Statement::Trigger),
        (b"STOPPING", b"1") => Some(Statement::Stopping),
        (b"RELOADING", b"1") => Some(Statement::Reloading),
        (b"STATUS", text) => Some(Statement::Status(for_people(text))),
        (b"EXTEND_TIMEOUT_USEC", number) => {
            let usec = std::str::from_utf8(number).ok()?.parse().ok()?;
            Some(Statement::Extend(Duration::from_micros(usec)))
        }
        (_, _) => None,
    }
}

/// One short line without control characters: a worker's words must not move the cursor of whoever reads them.
fn for_people(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(LONGEST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_statement_is_understood_in_order() {
        let message = b"STATUS=warm=1\nREADY=1\nMAINPID=7\nWATCHDOG=1\nWATCHDOG=trigger\nEXTEND_TIMEOUT_USEC=1500\n\
            STOPPING=1\nRELOADING=1\nMONOTONIC_USEC=3\nBARRIER=1\n";
        let expected = [
            Statement::Status("warm=1".to_owned()),
            Statement::Ready,
            Statement::Alive,
            Statement::Trigger,
            Statement::Extend(Duration::from_micros(1500)),
            Statement::Stopping,
            Statement::Reloading,
        ];
        assert_eq!(statements(message), expected);
    }

    #[test]
    fn what_only_looks_like_a_statement_is_passed_over() {
        let message =
            b"READY=0\nREADY\n ready=1\nREADY=1 \nWATCHDOG=\nEXTEND_TIMEOUT_USEC=-1\nEXTEND_TIMEOUT_USEC=x\n=\n";
        assert_eq!(statements(message), []);
    }

    #[test]
    fn a_status_is_short_and_moves_no_cursor() {
        let long = [b"STATUS=\x1b[2J".as_slice(), &[b'a'; 999]].concat();
        let Statement::Status(text) = statements(&long).remove(0) else { panic!("not a status") };
        assert_eq!(text.chars().count(), LONGEST_STATUS);
        assert!(text.starts_with("[2Ja"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(message in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = statements(&message);
        }

        #[test]
        fn no_near_miss_makes_it_panic(message in "(READY|STATUS|WATCHDOG|EXTEND_TIMEOUT_USEC)=[0-9a-z\u{e9}=\n]{0,40}") {
            let lines = message.split('\n').count();
            prop_assert!(statements(message.as_bytes()).len() <= lines);
        }

        #[test]
        fn any_number_of_microseconds_is_a_time(usec in any::<u64>()) {
            let message = format!("EXTEND_TIMEOUT_USEC={usec}");
            prop_assert_eq!(statements(message.as_bytes()), vec![Statement::Extend(Duration::from_micros(usec))]);
        }
    }
}
