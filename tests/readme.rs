//! The README is true: its configuration, its table of keys, its command lines and its exit codes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use rollout::{cli, config};
use serde_json::Value;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).expect("read README.md")
}

/// The fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(of) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if of == language {
                found.push(block.join("\n"));
            }
        }
    }
    found
}

/// What is between single backticks outside of fenced blocks.
fn spans(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The rows of the table whose head begins with this cell, by their first cell.
fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {head} |"))).skip(2);
    let cells = |row: &str| row.trim_matches('|').split(" |").map(|cell| cell.trim().to_owned()).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Every key of the schema with its description, as the README writes it: `listen[].address`.
fn keys() -> BTreeMap<String, String> {
    let schema: Value = serde_json::from_str(&config::schema::json()).expect("the schema is JSON");
    let mut keys = BTreeMap::new();
    walk(&schema, &schema, "", &mut keys);
    keys
}

fn walk(schema: &Value, root: &Value, path: &str, keys: &mut BTreeMap<String, String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.strip_prefix('#').expect("a reference into the schema itself");
        return walk(root.pointer(pointer).expect("it is there"), root, path, keys);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        walk(choice, root, path, keys);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], root, &format!("{path}[]"), keys);
    }
    if schema["additionalProperties"].is_object() {
        // Below a name that its writer chooses.
        let below = if path == "services" { String::new() } else { format!("{path}.NAME") };
        walk(&schema["additionalProperties"], root, &below, keys);
    }
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        keys.insert(path.clone(), value["description"].as_str().unwrap_or_default().to_owned());
        walk(value, root, &path, keys);
    }
}

#[test]
fn the_table_has_every_key_and_no_other_and_tells_its_default() {
    let keys = keys();
    let rows = table(&readme(), "key");
    let told: BTreeSet<String> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    assert_eq!(told.len(), rows.len(), "a key has two rows");
    assert_eq!(told, keys.keys().cloned().collect::<BTreeSet<_>>());
    assert!(keys.len() > 40, "the schema is read: {keys:?}");
    let mut compared = 0;
    for row in &rows {
        let key = row[0].trim_matches('`');
        // The sentence that the schema ends with.
        let Some((_, default)) = keys[key].split_once("Default: ") else { continue };
        assert_eq!(row[1].trim_matches('`'), default.trim_end_matches('.'), "the default of {key}");
        compared += 1;
    }
    assert!(compared > 30, "only {compared} defaults are in the schema");
}

#[test]
fn every_configuration_is_right_and_one_has_every_key() {
    let text = readme();
    let configurations = blocks(&text, "yaml");
    assert!(!configurations.is_empty());
    for yaml in &configurations {
        let problems = config::parse(yaml, "README.md", Path::new("/srv"), 4).err();
        assert!(problems.is_none(), "{}\n{yaml}", config::problem::list(&problems.unwrap_or_default()));
    }
    let names: BTreeSet<String> = keys().into_keys().map(|key| last(&key).to_owned()).collect();
    let full = &configurations[0];
    let missing: Vec<&String> = names
        .iter()
        // Each of these excludes the check that the example has.
        .filter(|name| !["accept", "notify", "exec"].contains(&name.as_str()))
        .filter(|name| !full.contains(&format!("{name}:")))
        .collect();
    assert!(missing.is_empty(), "the full example lacks {missing:?}");
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// Snippets of a service in the prose: `drain: {linger: 5s}`.
#[test]
fn every_key_in_the_prose_is_right_with_its_value() {
    let text = readme();
    let top: BTreeSet<String> = keys().into_keys().filter(|key| !key.contains('.')).collect();
    let snippets: Vec<String> = spans(&text)
        .into_iter()
        .filter(|span| span.split_once(": ").is_some_and(|(key, _)| top.contains(key)))
        .collect();
    assert!(snippets.len() > 5, "{snippets:?}");
    for snippet in snippets {
        let program = if snippet.starts_with("command: ") { "" } else { "    binary: ./web\n" };
        let yaml = format!("services:\n  web:\n{program}    listen: [8080]\n    {snippet}\n");
        let problems = config::parse(&yaml, "README.md", Path::new("/srv"), 4).err();
        assert!(problems.is_none(), "{}", config::problem::list(&problems.unwrap_or_default()));
    }
}

#[test]
fn every_command_line_is_understood() {
    let text = readme();
    let typed = blocks(&text, "console").into_iter().flat_map(|block| {
        let lines = block.lines().filter_map(|line| line.strip_prefix("$ ").map(str::to_owned));
        lines.collect::<Vec<_>>()
    });
    let lines: Vec<String> = typed
        .chain(blocks(&text, "sh").into_iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()))
        .chain(spans(&text))
        .filter(|line| line.starts_with("rollout "))
        .collect();
    assert!(lines.len() > 25, "only {} command lines: {lines:?}", lines.len());
    for line in lines {
        let command = line.split(" && ").next().unwrap_or(&line);
        let words: Vec<OsString> = command.split_whitespace().map(OsString::from).collect();
        if let Err(error) = cli::understands(&words) {
            // `--help` ends with its text, which is no failure.
            assert!(error.contains("Usage: rollout") && words.iter().any(|word| word == "--help"), "{line}: {error}");
        }
    }
}

#[test]
fn the_exit_codes_are_those_of_the_command() {
    let help = Command::new(env!("CARGO_BIN_EXE_rollout")).arg("--help").output().expect("run rollout --help");
    let help = String::from_utf8(help.stdout).expect("text");
    let codes = help.lines().skip_while(|line| *line != "Exit codes:").skip(1);
    let codes: Vec<String> = codes.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    let told: Vec<String> = table(&readme(), "exit code").iter().map(|row| format!("{}  {}", row[0], row[1])).collect();
    assert_eq!(told, codes);
    assert_eq!(codes.len(), 8);
}

#[test]
fn every_command_is_in_the_table() {
    let help = Command::new(env!("CARGO_BIN_EXE_rollout")).arg("--help").output().expect("run rollout --help");
    let help = String::from_utf8(help.stdout).expect("text");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: BTreeSet<String> =
        commands.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    let cells: String = table(&readme(), "command").iter().map(|row| row[0].clone() + "`").collect();
    let told = cells.split('`').filter_map(|span| span.strip_prefix("rollout "));
    let told: BTreeSet<String> = told.filter_map(|span| span.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(told, commands);
}

#[test]
fn every_file_that_is_linked_is_there() {
    let text = readme();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        if let Some(heading) = target.strip_prefix('#') {
            let name = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            assert!(text.lines().any(|line| line.starts_with('#') && name(line) == heading), "no heading {target}");
        } else if !target.starts_with("https://") {
            assert!(root.join(target).exists(), "{target} is not there");
        }
        links += 1;
    }
    assert!(links > 15);
}
