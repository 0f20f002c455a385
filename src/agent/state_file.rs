//! The state file of one service: written before each step that cannot be taken back, by rename, never in place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::Kept;

/// Both the newest format and the only one so far.
const FORMAT: u32 = 1;

/// Where one service's state is kept.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

#[derive(Serialize)]
struct Writing<'a> {
    format: u32,
    boot: &'a str,
    #[serde(flatten)]
    kept: KeptRef<'a>,
}

#[derive(Serialize)]
struct KeptRef<'a> {
    machine: &'a crate::machine::service::Service,
    book: &'a super::book::Book,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
    boot: String,
}

/// What was found.
pub(crate) enum Found {
    /// Nothing: a first start.
    Nothing,
    /// State of this boot: its processes and moments mean something.
    ThisBoot(Box<Kept>),
    /// State of an earlier boot: its releases and requests mean something.
    EarlierBoot(Box<Kept>),
    /// Something that cannot be read; the text says why.
    Unreadable(String),
}

impl StateFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join("state.json") }
    }

    pub(crate) fn read(&self) -> Found {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Unreadable(error.to_string()),
        };
        match serde_json::from_slice::<Format>(&text) {
            Ok(Format { format: FORMAT, boot }) => match serde_json::from_slice(&text) {
                Ok(kept) if boot == boot_id() => Found::ThisBoot(kept),
                Ok(kept) => Found::EarlierBoot(kept),
                Err(error) => Found::Unreadable(error.to_string()),
            },
            Ok(Format { format, .. }) => {
                Found::Unreadable(format!("its format is {format}, this program knows {FORMAT}"))
            }
            Err(error) => Found::Unreadable(error.to_string()),
        }
    }

    /// Puts an unreadable file aside, so that a person can look at it and it is not read again.
    pub(crate) fn put_aside(&self) -> io::Result<PathBuf> {
        let aside = self.path.with_extension("json.unreadable");
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }

    /// Writes by rename. Not synced: a crash of this process loses nothing that was renamed, and after a crash of the
    /// machine no process is left that the newest state could describe. `lasting` syncs what a reboot must find.
    pub(crate) fn write(
        &self,
        kept: (&crate::machine::service::Service, &super::book::Book),
        last: Last,
    ) -> io::Result<()> {
        let boot = boot_id();
        let writing = Writing { format: FORMAT, boot: &boot, kept: KeptRef { machine: kept.0, book: kept.1 } };
        let text = serde_json::to_vec(&writing)?;
        let temporary = self.path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&text)?;
        if last == Last::Reboot {
            file.sync_all()?;
        }
        fs::rename(&temporary, &self.path)
    }
}

/// What a written state must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// The death of this process.
    Process,
    /// The death of the machine.
    Reboot,
}

/// Names this boot (proc_sys_kernel(5)); empty where /proc does not say.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
