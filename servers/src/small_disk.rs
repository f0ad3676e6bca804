//! A small disk of a test's own, which can be filled to the last byte and emptied again: a tmpfs of limited size. Mounting one
//! takes root; without it there is no such disk, which is said, and is a failure where the environment asks for `REQUIRE_DISKS=1`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILLER: &str = "filler";
const REQUIRED: &str = "REQUIRE_DISKS";

/// Says what of a test is left out because no disk could be mounted. Errors: it must not be left out here.
pub fn leave_out_disk(reason: &str) -> Result<(), String> {
    if std::env::var_os(REQUIRED).is_some_and(|value| value == "1") {
        return Err(format!("{REQUIRED}=1, and no disk can be mounted: {reason}"));
    }
    eprintln!("left out, because no disk can be mounted: {reason}");
    Ok(())
}

/// As long as it is held.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None: this user may not mount one. Errors: where one is required, what `mount` says.
    pub fn mount(path: &Path, bytes: u64) -> Result<Option<SmallDisk>, String> {
        fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let options = format!("size={bytes},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        let refused = match mounted {
            Ok(output) if output.status.success() => return Ok(Some(SmallDisk(path.to_owned()))),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        leave_out_disk(&refused).map(|()| None)
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
