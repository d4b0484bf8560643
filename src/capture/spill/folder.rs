//! Where the files of one session are. Promise: a session removes what dead sessions left, and nothing that another one
//! still needs or that is not ours.
//!
//! Each session holds a lock on `SESSION.lock` for as long as it lives; its files are `SESSION-XID.spill`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use highwater_postgres::Timestamp;
use tracing::warn;

use super::error::SpillError;

const LOCK: &str = "lock";
const SPILL: &str = "spill";
/// How often a name is taken that turns out to be another's.
const NAMES: u8 = 10;

/// The files of one session; they go with it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    session: String,
    /// Held until the session ends, by whatever end.
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, removes what dead sessions left in it, and begins a session.
    pub(super) fn open(path: &Path) -> Result<Self, SpillError> {
        let failed = |what| move |reason| SpillError::Disk { what, file: path.to_owned(), offset: 0, reason };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the folder"))?;
        // What a link points at may change; what was checked must stay what is used.
        let path = path.canonicalize().map_err(failed("find the folder"))?;
        remove_dead_sessions(&path).map_err(failed("empty the folder"))?;
        let (session, lock) = begin_session(&path).map_err(failed("make a file in"))?;
        let folder = Self { path, session, _lock: lock };
        let about = |file: &Path| fs::metadata(file).map_err(failed("look at"));
        let (ours, whole) = (about(&folder.file(LOCK))?, about(&folder.path)?);
        if ours.uid() != whole.uid() || whole.mode() & 0o022 != 0 {
            return Err(SpillError::Shared { folder: folder.path.clone() });
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where a transaction's changes go.
    pub(super) fn file_of(&self, xid: u32) -> PathBuf {
        self.path.join(format!("{}-{xid}.{SPILL}", self.session))
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.path.join(format!("{}.{ending}", self.session))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = remove_session(&self.path, &self.session) {
            warn!(folder = %self.path.display(), %error, "could not remove spill files; the next session will");
        }
    }
}

fn begin_session(folder: &Path) -> io::Result<(String, File)> {
    let mut refused = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAMES {
        let session = format!("session-{}-{}", std::process::id(), Timestamp::now().0);
        let path = folder.join(format!("{session}.{LOCK}"));
        let lock = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        // Between making and locking, another session may have taken it for a dead one's.
        match lock.try_lock() {
            Ok(()) if path.exists() => return Ok((session, lock)),
            Ok(()) | Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(error)) => refused = error,
        }
    }
    Err(refused)
}

fn remove_dead_sessions(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let session = path.file_stem().and_then(|stem| stem.to_str()).filter(|stem| stem.starts_with("session-"));
        let (Some(session), Some(LOCK)) = (session, path.extension().and_then(|ending| ending.to_str())) else {
            continue;
        };
        let lock = match File::open(&path) {
            // Another session was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            lock => lock?,
        };
        if lock.try_lock().is_ok() {
            remove_session(folder, session)?;
        }
    }
    Ok(())
}

/// Removes the files of one session, its lock last.
fn remove_session(folder: &Path, session: &str) -> io::Result<()> {
    let is_its = |name: &str| {
        let rest = name.strip_prefix(session).and_then(|rest| rest.strip_prefix('-'));
        let xid = rest.and_then(|rest| rest.strip_suffix(SPILL)).and_then(|rest| rest.strip_suffix('.'));
        xid.is_some_and(|xid| xid.parse::<u32>().is_ok())
    };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_its) {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(folder.join(format!("{session}.{LOCK}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_session_removes_what_dead_sessions_left_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("spill");
        let living = Folder::open(&path).unwrap();
        fs::write(living.file_of(7), "needed").unwrap();
        fs::write(path.join("session-1-2.lock"), "").unwrap();
        fs::write(path.join("session-1-2-77.spill"), "left over").unwrap();
        fs::write(path.join("session-1-2-notes.spill"), "somebody's").unwrap();
        fs::write(path.join("notes"), "somebody's").unwrap();
        let next = Folder::open(&path).unwrap();
        let left = names(&path);
        assert!(living.file_of(7).exists() && next.file("lock").exists());
        let others: Vec<_> = left.iter().filter(|name| !name.contains(&std::process::id().to_string())).collect();
        assert_eq!(others, ["notes", "session-1-2-notes.spill"]);
        drop((living, next));
        assert_eq!(names(&path), ["notes", "session-1-2-notes.spill"]);
    }

    #[test]
    fn the_folder_is_nobody_elses() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("spill");
        drop(Folder::open(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Folder::open(&path), Err(SpillError::Shared { .. })));
        assert_eq!(names(&path), [""; 0], "a session that was refused leaves nothing");
    }
}
