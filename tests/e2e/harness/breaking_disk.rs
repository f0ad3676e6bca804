//! A disk of a test's own that turns read-only under a running process, as a server's disk does at its first error: ext4 in a file.
//! Mounting one takes root and loop devices; without them the test is told so and left out, where it may be.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Some times what a gateway needs: after a kill there are two epochs for a while.
const SIZE: &str = "256M";

pub struct BreakingDisk {
    at: PathBuf,
    image: PathBuf,
    _dir: TempDir,
}

impl BreakingDisk {
    /// None: this machine mounts none.
    pub fn mount() -> Option<BreakingDisk> {
        let dir = tempfile::Builder::new().prefix("apihub-disk-").tempdir_in("/tmp").unwrap();
        let disk = BreakingDisk { at: dir.path().join("disk"), image: dir.path().join("image"), _dir: dir };
        std::fs::create_dir(&disk.at).unwrap();
        let image = disk.image.to_str().unwrap();
        let made = run("truncate", &["-s", SIZE, image])
            .and_then(|()| run("mkfs.ext4", &["-q", "-F", "-m", "0", image]))
            .and_then(|()| disk.mount_image());
        match made {
            Ok(()) => Some(disk),
            Err(refused) => {
                servers::leave_out_disk(&refused).unwrap();
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Whatever is open stays open, and nothing can be written any more.
    pub fn turn_read_only(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(self.text())).unwrap();
        let device = Path::new(line.split(' ').next().unwrap()).file_name().unwrap().to_owned();
        std::fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "1").unwrap();
        assert!(std::fs::File::create(self.at.join("x")).is_err(), "the disk can still be written");
    }

    /// As after a repair: what was on it, and writable. Nobody may be using it.
    pub fn mount_again(&self) {
        run("umount", &[self.text()]).unwrap();
        self.mount_image().unwrap();
    }

    fn mount_image(&self) -> Result<(), String> {
        run("mount", &["-o", "loop,errors=remount-ro", self.image.to_str().unwrap(), self.text()])
    }

    fn text(&self) -> &str {
        self.at.to_str().unwrap()
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

impl Drop for BreakingDisk {
    /// Lazily: whoever still has a file open there ends soon.
    fn drop(&mut self) {
        let _was_not_mounted = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
