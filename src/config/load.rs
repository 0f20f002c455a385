//! The door: a file or a text becomes settings, or a list of everything that is wrong with it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::check::{self, Surroundings};
use super::problem::{At, ConfigError, Place, Problem, Problems};
use super::raw::Root;
use super::read::Read;
use super::settings::Settings;
use super::tree::{Node, Shape};
use super::yaml;

/// A hundred times more than a configuration with a hundred services; the parser need not be shown more.
const LARGEST_FILE: u64 = 1 << 20;

/// Reads and checks a file. `cpus` is what `workers: auto` means.
pub fn load(path: &Path, cpus: u32) -> Result<Settings, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let dir = absolute.parent().unwrap_or(Path::new("/"));
    let bytes = read(path).map_err(unreadable)?;
    let file_name = path.display().to_string();
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return Err(ConfigError::Problems(vec![not_text(&error, file_name)])),
    };
    parse(&text, &file_name, dir, cpus).map_err(ConfigError::Problems)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let message = format!("larger than {} KiB, which no configuration is", LARGEST_FILE >> 10);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn not_text(error: &std::string::FromUtf8Error, file: String) -> Problem {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
    let message = format!("not UTF-8 text (first bad byte in line {line}): save the file as UTF-8");
    Problem { file, place: Place::Whole, path: String::new(), line: None, message }
}

/// Checks a text. `file_name` is for messages; relative paths begin at `dir`, which is absolute.
pub fn parse(text: &str, file_name: &str, dir: &Path, cpus: u32) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems::new(file_name, text);
    let tree = yaml::tree(text, &mut problems);
    let settings = tree.and_then(|tree| settings(&tree, &Surroundings { dir, cpus }, &mut problems));
    problems.unless_any(settings)
}

/// The common end of files and flags.
pub(super) fn settings(tree: &Node, around: &Surroundings<'_>, problems: &mut Problems<'_>) -> Option<Settings> {
    let top = At { place: tree.place, path: String::new() };
    let root = match tree.shape {
        // Nothing, or comments only: then all that is missing is a service.
        Shape::Nothing => Some(Root::default()),
        Shape::Scalar(_) | Shape::List(_) | Shape::Map(_) => Root::read(tree, &top, problems),
    };
    root.map(|root| check::check(&root, around, problems))
}

/// The file that is used when none is named: `./rollout.yaml`, then `/etc/rollout/rollout.yaml`.
#[must_use]
pub fn find() -> Option<PathBuf> {
    ["./rollout.yaml", "/etc/rollout/rollout.yaml"].map(PathBuf::from).into_iter().find(|path| path.exists())
}
