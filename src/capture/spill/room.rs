//! What a folder has room for, asked without making anything in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::error::SpillError;

/// Looks whether a session could keep its files in the folder, which it would make. Returns the bytes that are free there.
///
/// # Errors
/// What the session would end with, or what the system says.
pub(in super::super) fn room_in(folder: &Path) -> Result<u64, SpillError> {
    let failed = |what, at: &Path| {
        let file = at.to_owned();
        move |reason: std::io::Error| SpillError::Disk { what, file, offset: 0, reason }
    };
    let folder = std::path::absolute(folder).map_err(failed("find the folder", folder))?;
    // The first that stands: those below it would be made.
    let there = folder.ancestors().find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or(Path::new("/"));
    let about = fs::metadata(there).map_err(failed("look at", there))?;
    if there == folder && (about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0) {
        return Err(SpillError::Shared { folder });
    }
    if !about.is_dir() {
        return Err(failed("make the folder below", there)(std::io::ErrorKind::NotADirectory.into()));
    }
    access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed("make a file in", there)(error.into()))?;
    let free = statvfs(there).map_err(|error| failed("look at the disk of", there)(error.into()))?;
    Ok(free.f_bavail.saturating_mul(free.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_could_not_be_used_is_told_without_making_it() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("a/b");
        assert!(room_in(&folder).unwrap() > 0);
        assert!(!base.path().join("a").exists(), "it is not made");
        fs::write(base.path().join("a"), "a file").unwrap();
        assert!(room_in(&folder).unwrap_err().to_string().contains("make the folder below"));
        let shared = base.path().join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(room_in(&shared), Err(SpillError::Shared { .. })));
        std::os::unix::fs::symlink(base.path().join("nowhere"), base.path().join("link")).unwrap();
        assert!(room_in(&base.path().join("link")).is_err(), "a link to nothing can be no folder");
    }
}
