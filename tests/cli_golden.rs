//! What the command says, word for word: help, usage errors, and everything that needs no agent.
//!
//! `TRYCMD=overwrite cargo test --test cli_golden` writes what it says now; read the difference before committing it.

use std::process::Command;

#[test]
fn help_and_errors_are_as_written_down() {
    trycmd::TestCases::new().env("COLUMNS", "100").case("tests/cli/*.trycmd");
}

#[test]
fn init_writes_a_configuration_that_is_good_and_never_writes_over_one() {
    let home = tempfile::TempDir::new().expect("a temporary directory");
    let rollout = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rollout")).args(words).current_dir(home.path()).output();
        let output = output.expect("the command runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    assert_eq!(rollout(&["init", "--name", "api", "--listen", "127.0.0.1:9000"]), (Some(0), String::new()));
    assert_eq!(rollout(&["check"]), (Some(0), String::new()));
    let text = std::fs::read_to_string(home.path().join("rollout.yaml")).expect("it was written");
    assert!(text.contains("\"api\":") && text.contains("127.0.0.1:9000"), "{text}");
    let (code, said) = rollout(&["init"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("./rollout.yaml exists already and is left as it is"), "{said}");
    assert_eq!(std::fs::read_to_string(home.path().join("rollout.yaml")).expect("it is there"), text);
}

#[test]
fn schema_completions_and_manual_pages_are_there() {
    for (words, expected) in [
        (&["schema"][..], "\"services\""),
        (&["completions", "bash"], "rollout__subcmd__deploy"),
        (&["completions", "fish"], "-n \"__fish_rollout"),
        (&["completions", "zsh"], "#compdef rollout"),
        (&["man"], ".TH rollout"),
        (&["man", "deploy"], ".TH rollout-deploy"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_rollout")).args(words).output().expect("the command runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && text.contains(expected), "{words:?}: {expected:?} is not in {text}");
        assert!(!text.contains("__agent"), "{words:?} shows a hidden command");
    }
}
