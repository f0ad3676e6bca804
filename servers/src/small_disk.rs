//! A small disk of a test's own, which can be filled to the last byte and emptied again: a tmpfs of limited size. Mounting one
//! takes root; without it there is no such disk, and the caller is told why.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILLER: &str = "filler";

/// As long as it is held.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Errors: what `mount` says.
    pub fn mount(path: &Path, bytes: u64) -> Result<SmallDisk, String> {
        fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let options = format!("size={bytes},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(SmallDisk(path.to_owned())),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Leaves no room at all. Errors: there is none even for the file that fills it.
    pub fn fill(&self) -> std::io::Result<()> {
        let mut filler = File::create(self.0.join(FILLER))?;
        for block in [1 << 20, 4096, 1] {
            let zeros = vec![0; block];
            while filler.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    pub fn make_room(&self) {
        let _there_was_none = fs::remove_file(self.0.join(FILLER));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open there ends soon.
        let _gone_with_the_machine = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
